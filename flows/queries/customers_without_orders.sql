-- Where are the customers who have money on their account and have never ordered?
select
    n_name as nation,
    count(*) as customers,
    sum(c_acctbal) as balance
from customer
join nation on n_nationkey = c_nationkey
where c_acctbal > 0
    and not exists (select 1 from orders where o_custkey = c_custkey)
group by n_name
order by balance desc, nation;
